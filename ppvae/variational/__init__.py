"""What is maximised, and how is its gradient estimated?"""
