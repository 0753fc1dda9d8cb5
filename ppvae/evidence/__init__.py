"""What is log p(x), and how far is it to be trusted?"""
