"""Is Adadelta any good today, beside other optimizers without a learning rate?"""
