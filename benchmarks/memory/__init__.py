"""How much memory does a step take and move, and what does each device of many hold and send?"""
