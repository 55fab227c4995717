#!/bin/bash
id notes >/dev/null 2>&1 || useradd --system --shell /usr/sbin/nologin notes
