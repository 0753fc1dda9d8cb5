"""How does a learning rate change in the course of training?"""
