"""Claims in Redis: one hash a run, changed by scripts, which Redis carries out one at a time."""

from typing import Any

from ._store import KEEP_DEFAULT, Verdict

_BEGIN = """
local state, fence = redis.call('HGET', KEYS[1], 'state'), tonumber(redis.call('HGET', KEYS[1], 'fence') or '0')
if state == 'done' then return 'done' end
if fence == tonumber(ARGV[1]) then return 'delivered_twice' end
if fence > tonumber(ARGV[1]) then return 'superseded' end
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'state', 'running')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'claimed'
"""
_END = """
if redis.call('HGET', KEYS[1], 'fence') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'state', ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
"""


class RedisStore:
    """Claims in a Redis that all workers share, and that must not evict keys (`maxmemory-policy noeviction`).

    Args:
        client: of redis-py: `redis.Redis(…)`, also of a Sentinel or a cluster.
        prefix: what its keys begin with.
        keep: seconds for which a run is remembered after its last claim.
    """

    def __init__(self, client: Any, prefix: str = "chronarch:guard:", keep: float = KEEP_DEFAULT) -> None:
        if not keep > 0:
            raise ValueError(f"keep: expected seconds above 0, found {keep}")
        self._client, self._prefix, self._keep = client, prefix, int(keep * 1_000)

    def begin(self, run_id: str, fence: int) -> Verdict:
        """See `Store.begin`."""
        answer = self._client.eval(_BEGIN, 1, self._prefix + run_id, fence, self._keep)
        return Verdict(answer.decode() if isinstance(answer, bytes) else answer)

    def end(self, run_id: str, fence: int, done: bool) -> None:
        """See `Store.end`."""
        self._client.eval(_END, 1, self._prefix + run_id, fence, self._keep, "done" if done else "failed")
