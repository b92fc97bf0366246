"""Does Adadelta do here what the paper says?"""
