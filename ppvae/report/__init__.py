"""What does a run say to a reader?"""
