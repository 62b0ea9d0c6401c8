// As __init__.py says, for Node.
'use strict';

let cold = true;

module.exports = (request, response) => {
  const isSlow = request.method === 'POST' && request.url === '/slow';
  request.resume();
  setTimeout(() => {
    const wasCold = cold && request.url !== '/health';
    cold = cold && request.url !== '/';
    response.writeHead(200, { 'X-Pid': process.pid, 'X-Cold': Number(wasCold) });
    response.end('fine\n');
  }, isSlow ? 300 : 0);
};
