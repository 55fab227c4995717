#!/bin/bash
curl -fsS --retry 4 --retry-connrefused --retry-delay 1 http://localhost:8082/
