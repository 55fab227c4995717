#!/bin/bash
set -e
curl -fsS --retry 10 --retry-connrefused --retry-delay 1 http://localhost:8081/ | grep storefront
curl -fsS http://localhost:8081/img/logo.svg >/dev/null
