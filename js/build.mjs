// Makes the two files that the daemon serves from the modules in src/: the classic script and the ES module.
// They are committed, so that installing the daemon needs no Node.
//
//   node build.mjs          write them
//   import { build }        their texts by name (the test that they are current)

import { readFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';

// Each before those that import it. Names at the top level are unique among them: the engine refuses the result otherwise.
const MODULES = [
  'states',
  'metadata',
  'backoff',
  'address',
  'transport',
  'problem',
  'resource',
  'status',
  'environment',
  'announcer',
  'uploader',
  'incoming',
];

export const STATIC = new URL('../incomingd/frontends/static/', import.meta.url);

const HEAD = `// Incoming!! browser library. MIT License. Made from js/src/ by js/build.mjs; change it there.
`;

/** @param {string} name */
function inlined(name) {
  const source = readFileSync(new URL(`src/${name}.js`, import.meta.url), 'utf8');
  return source.replace(/^import [^;]+;\n/gm, '').replace(/^export /gm, '').trim();
}

/** @returns {Record<string, string>} the text of each file */
export function build() {
  const body = MODULES.map(inlined).join('\n\n');
  return {
    'incoming.js': `${HEAD}
var incoming = (function () {
'use strict';

${body}

// Only while a script of the page is being loaded does the document know which one it is; elsewhere there is none.
return makeIncoming(
  typeof document === 'undefined' ? '' : (/** @type {HTMLScriptElement | null} */ (document.currentScript)?.src ?? ''),
);
})();
`,
    'incoming.mjs': `${HEAD}
${body}

const incoming = makeIncoming(import.meta.url);

export const { Uploader, configure, set_server_hostname } = incoming;
export default incoming;
`,
  };
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  mkdirSync(STATIC, { recursive: true });
  for (const [name, text] of Object.entries(build())) {
    writeFileSync(new URL(name, STATIC), text);
  }
}
