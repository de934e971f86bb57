'use strict';
// What better-sqlite3's tests expect to be there, with the databases in `temp` beside them; unlike its own, this leaves them for
// the comparison with their replicas.
const fs = require('fs');
const path = require('path');

const folder = path.join(__dirname, '..', 'temp');
fs.mkdirSync(folder, { recursive: true });
let number = 0;
const current = () => path.join(folder, `${number}.db`);
const next = () => (number += 1, current());

global.expect = require('chai').expect;
global.util = { current, next, describeUnix: describe, itUnix: it };
