"""Which densities do torch and Pyro lack, or score slowly?"""
