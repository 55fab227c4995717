#!/bin/bash
rm -f /etc/nginx/sites-enabled/default
