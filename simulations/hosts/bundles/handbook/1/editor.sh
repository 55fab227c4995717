#!/bin/bash
getent passwd editor >/dev/null || useradd --no-create-home editor
