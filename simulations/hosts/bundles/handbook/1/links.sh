#!/bin/bash
# Every page that is linked to is there.
cd /var/www/handbook/pages || exit 1
status=0
for page in $(sed -n 's/.*href="\([^"]*\)".*/\1/p' ./*.html); do
  cat "$page" >/dev/null || status=1
done
exit $status
