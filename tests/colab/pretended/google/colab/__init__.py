"""Stands for the package by whose name a notebook knows that it is on Colab."""
