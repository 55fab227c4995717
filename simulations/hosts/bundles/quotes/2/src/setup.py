from setuptools import setup

setup(name="quotes", version="2.0", py_modules=["quotes"])
