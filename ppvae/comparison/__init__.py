"""Which model and inference do best, and at what cost?"""
