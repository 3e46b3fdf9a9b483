// A client of the Model Context Protocol that works in a sandbox as a model's
// program would: client.cjs SANDBOX. It ends with 1 where something is not as it
// should be.
const assert = require('node:assert/strict');
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StdioClientTransport } = require('@modelcontextprotocol/sdk/client/stdio.js');

const sandbox = process.argv[2];

async function main() {
  const client = new Client({ name: 'test', version: '1' });
  await client.connect(new StdioClientTransport({ command: 'banger', args: ['mcp'], env: process.env }));
  assert.match(client.getInstructions(), /sandbox_create/);

  const names = (await client.listTools()).tools.map((tool) => tool.name).sort();
  for (const name of ['run_command', 'read_file', 'write_file', 'sandbox_list', 'sandbox_create', 'sandbox_start', 'sandbox_stop', 'sandbox_delete',
    'session_start', 'session_list', 'session_output', 'session_send', 'session_stop']) {
    assert.ok(names.includes(name), `there is no tool ${name} in ${names}`);
  }

  // A guest in software emulation may need long for its own start.
  const patience = { timeout: 180000 };
  const call = async (name, args) => {
    const result = await client.callTool({ name, arguments: args }, undefined, patience);
    assert.ok(!result.isError, `${name}: ${JSON.stringify(result.content)}`);
    return result.structuredContent;
  };
  const refused = async (name, args) => {
    const result = await client.callTool({ name, arguments: args }, undefined, patience);
    assert.ok(result.isError, `${name} of ${JSON.stringify(args)} worked`);
    return result.content[0].text;
  };

  const list = await call('sandbox_list', {});
  assert.deepEqual(list.sandboxes.map((s) => [s.name, s.state]), [[sandbox, 'running']]);

  const ran = await call('run_command', { sandbox, command: 'cat; echo err >&2; pwd; echo $WORD; exit 7', stdin: 'in\n', cwd: '/srv', env: { WORD: 'w' } });
  assert.deepEqual(ran, { exit_status: 7, stdout: 'in\n/srv\nw\n', stderr: 'err\n' });
  const long = await call('run_command', { sandbox, command: 'echo begin; head -c 2000000 /dev/zero | tr "\\0" x; echo; echo end' });
  assert.ok(long.cut && long.stdout.length < 300000 && long.stdout.startsWith('begin\n') && long.stdout.endsWith('end\n'));
  const slow = await call('run_command', { sandbox, command: 'echo early; sleep 1000', timeout_seconds: 5 });
  assert.ok(slow.timed_out && slow.exit_status === -1 && slow.stdout === 'early\n');

  await call('write_file', { sandbox, path: '/srv/text', text: 'größer\n' });
  assert.deepEqual(await call('read_file', { sandbox, path: '/srv/text' }), { text: 'größer\n' });
  await call('write_file', { sandbox, path: '/srv/run', text: '#!/bin/sh\necho ran', executable: true });
  assert.equal((await call('run_command', { sandbox, command: '/srv/run' })).stdout, 'ran\n');
  const bytes = Buffer.from([0, 255, 254, 10]).toString('base64');
  await call('write_file', { sandbox, path: '/srv/bytes', base64: bytes });
  assert.deepEqual(await call('read_file', { sandbox, path: '/srv/bytes' }), { base64: bytes });
  await call('run_command', { sandbox, command: 'seq 100000 > /srv/large' });
  let whole = '';
  for (let offset = 0; ; ) {
    const piece = await call('read_file', { sandbox, path: '/srv/large', offset });
    whole += piece.text;
    if (!piece.next_offset) break;
    offset = piece.next_offset;
  }
  assert.equal(whole, Array.from({ length: 100000 }, (_, i) => `${i + 1}\n`).join(''));

  const session = 'talk';
  await call('session_start', { sandbox, name: session, command: 'echo up; read line; echo "got $line" >&2; cat; sleep 1000' });
  const until = async (done) => {
    for (let position = 0, out = { stdout: '', stderr: '' }; ; ) {
      const piece = await call('session_output', { sandbox, session, position });
      position = piece.next_position;
      out = { stdout: out.stdout + piece.stdout, stderr: out.stderr + piece.stderr };
      if (done(out)) return;
    }
  };
  await until((out) => out.stdout === 'up\n');
  await call('session_send', { sandbox, session, text: 'a line\nand more\n', end: true });
  await until((out) => out.stderr === 'got a line\n' && out.stdout === 'up\nand more\n');
  const talks = await call('session_list', { sandbox });
  assert.deepEqual(talks.sessions.map((s) => [s.name, s.state]), [[session, 'running']]);
  assert.equal((await call('session_stop', { sandbox, session })).state, 'ended');

  assert.match(await refused('run_command', { sandbox: 'nobody', command: 'true' }), /there is no VM "nobody".*hint/s);
  assert.match(await refused('read_file', { sandbox, path: '/no/such/file' }), /there is no file or directory/);
  assert.match(await refused('run_command', { sandbox, command: 'true', timeout_seconds: -1 }), /timeout_seconds/);
  await client.close();
  console.log('all as it should be');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
