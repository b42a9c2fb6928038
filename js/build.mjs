// Makes the two files that the daemon serves from the modules in src/: the classic script and the ES module.
// They are committed, so that installing the daemon needs no Node. The picture of the states in the documentation is
// made here, too.
//
//   node build.mjs                  write them
//   import { build, documented }    their texts (the test that they are current)

import { readFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';

import { STATES, TRANSITIONS } from './src/states.js';

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

export const DOCUMENT = new URL('../docs/javascript.md', import.meta.url);

/** @param {string} text the documentation @returns {string} it, with the states as they are */
export function documented(text) {
  const lines = ['stateDiagram-v2', '  [*] --> idle'];
  for (const [state, leads] of Object.entries(TRANSITIONS)) {
    lines.push(...Object.entries(leads).map(([event, next]) => `  ${state} --> ${next}: ${event}`));
    if (STATES[/** @type {keyof typeof STATES} */ (state)].final) {
      lines.push(`  ${state} --> [*]`);
    }
  }
  return text.replace(/(```mermaid\n)[^`]*(```)/, `$1${lines.join('\n')}\n$2`);
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  mkdirSync(STATIC, { recursive: true });
  for (const [name, text] of Object.entries(build())) {
    writeFileSync(new URL(name, STATIC), text);
  }
  writeFileSync(DOCUMENT, documented(readFileSync(DOCUMENT, 'utf8')));
}
