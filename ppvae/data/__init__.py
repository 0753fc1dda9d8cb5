"""What is a datum, and where does it come from?"""
