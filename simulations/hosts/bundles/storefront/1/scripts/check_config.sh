#!/bin/bash
nginx -t
