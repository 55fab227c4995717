#!/bin/bash
set -e
systemctl daemon-reload
systemctl enable notes
systemctl restart notes
