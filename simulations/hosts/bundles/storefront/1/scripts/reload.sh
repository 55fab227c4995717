#!/bin/bash
systemctl reload-or-restart nginx
