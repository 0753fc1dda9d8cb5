"""How do θ, λ and the rows learn?"""
