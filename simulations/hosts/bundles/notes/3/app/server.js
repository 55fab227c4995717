const http = require('http');
const { version } = require('./package.json');
const store = require('./lib/store');

http.createServer((request, response) => {
  response.end(JSON.stringify({ name: 'notes', version, notes: store.all() }) + '\n');
}).listen(process.env.PORT, '127.0.0.1');
