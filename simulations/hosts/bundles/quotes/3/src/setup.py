from setuptools import setup

setup(name="quotes", version="3.0", py_modules=["quotes"], install_requires=["quotations>=4"])
