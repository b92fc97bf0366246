"""How long do a step, a training step and its compilation take?"""
