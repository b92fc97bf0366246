"""What do narrower accumulators save and cost?"""
