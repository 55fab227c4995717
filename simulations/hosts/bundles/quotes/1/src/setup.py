from setuptools import setup

setup(name="quotes", version="1.0", py_modules=["quotes"])
