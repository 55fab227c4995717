const http = require('http');
const { version } = require('./package.json');
const notes = require('./lib/notes');

http.createServer((request, response) => {
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify({ name: 'notes', version, notes: notes() }) + '\n');
}).listen(process.env.PORT, '127.0.0.1');
