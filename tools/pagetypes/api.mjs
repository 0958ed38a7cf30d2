// Prints the types of the live page's JSON, from its OpenAPI document:
// node api.mjs openapi.json >api.d.ts

import { readFileSync } from 'node:fs';

const { components } = JSON.parse(readFileSync(process.argv[2], 'utf8'));

const plain = { string: 'string', integer: 'number', number: 'number', boolean: 'boolean', null: 'null' };

function type(schema) {
  if (typeof schema !== 'object') return 'unknown';
  if (schema.$ref) return schema.$ref.split('/').at(-1);
  if (schema.oneOf) return schema.oneOf.map(type).join(' | ');
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(' | ');
  return [schema.type ?? []].flat().map((name) => {
    if (name === 'array') return `Array<${type(schema.items)}>`;
    if (name === 'object') return schema.properties ? object(schema) : `Record<string, ${type(schema.additionalProperties ?? {})}>`;
    return plain[name];
  }).join(' | ') || 'unknown';
}

function object(schema) {
  const required = new Set(schema.required);
  const members = Object.entries(schema.properties).map(([name, of]) => `  ${JSON.stringify(name)}${required.has(name) ? '' : '?'}: ${type(of)};\n`);
  return `{\n${members.join('')}}`;
}

for (const [name, schema] of Object.entries(components.schemas)) process.stdout.write(`export type ${name} = ${type(schema)};\n`);
