"""What a gradient passes through, in this order.

`optimizer` is the ready-made chain, `transform` the rule over a tree, `rule` the equations for one
array. `in_place` holds what XLA needs to work in place, in few passes.
"""
