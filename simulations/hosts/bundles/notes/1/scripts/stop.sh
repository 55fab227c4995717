#!/bin/bash
if systemctl is-active --quiet notes; then
  systemctl stop notes
fi
