const http = require('http');
const { version } = require('./package.json');

http.createServer((request, response) => {
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify({ name: 'notes', version }) + '\n');
}).listen(process.env.PORT, '127.0.0.1');
