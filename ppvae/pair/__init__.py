"""What do a model and its guide say, datum by datum?"""
