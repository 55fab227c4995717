#!/bin/bash
set -e
cd /opt/notes
node --check server.js
