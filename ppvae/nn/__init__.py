"""Which networks do models share?"""
