"""What is wrong with q, with p, with a gradient?"""
