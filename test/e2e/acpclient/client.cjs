// An editor's half of the Agent Client Protocol: client.cjs VM DIR starts the
// agent in the VM with banger vm acp, says hello and opens a session in DIR, a
// path of the guest. It ends with 1 where something is not as it should be.
const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const { PassThrough, Readable, Writable } = require('node:stream');
const { pathToFileURL } = require('node:url');

const [vm, dir] = process.argv.slice(2);

async function main() {
  const acp = await import(pathToFileURL(require.resolve('@agentclientprotocol/sdk')));
  const bridge = spawn('banger', ['vm', 'acp', vm, '--cwd', dir], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = once(bridge, 'exit');
  // The SDK closes its side when it has what it wants, and the agent goes on
  // telling: the pipe behind it stays open, as an editor's does.
  const heard = bridge.stdout.pipe(new PassThrough());
  const stream = acp.ndJsonStream(Writable.toWeb(bridge.stdin), Readable.toWeb(heard));
  await acp.client({ name: 'test' }).connectWith(stream, async (agent) => {
    const hello = await agent.request(acp.methods.agent.initialize, {
      protocolVersion: acp.PROTOCOL_VERSION,
      clientCapabilities: {},
      clientInfo: { name: 'test', version: '1' },
    });
    assert.equal(hello.protocolVersion, acp.PROTOCOL_VERSION);
    assert.equal(hello.agentInfo.name, 'OpenCode');
    console.log('initialized');
    const session = await agent.request(acp.methods.agent.session.new, { cwd: dir, mcpServers: [] });
    assert.match(session.sessionId, /^ses_/);
    console.log(`session ${session.sessionId}`);
  });
  bridge.stdin.end();
  bridge.stdout.resume();
  const [status, signal] = await ended;
  assert.deepEqual([status, signal], [0, null]);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
