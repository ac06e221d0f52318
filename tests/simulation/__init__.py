"""Whole clusters in one process, on a virtual clock, the same for the same seed.

    python -m tests.simulation --seeds 1000            # stops at the first seed that breaks a promise, with its history
    python -m tests.simulation --seed 42 --verbose     # one seed, everything that happened
    python -m tests.simulation --plant no_fence        # with a known bug switched on
    python -m tests.simulation --keep-going            # one line for each failing seed

**What runs as it is:** ``Silo`` (joining, rejoining, draining, sweeping), ``Client``, ``Membership``, ``EtcdDirectory``
with its group commit, ``Placement``, ``Runtime`` and all of ``actors``, ``GrpcTransport``, ``GrpcLink`` with frames,
chunks, credit and handshake, and ``MemoryStore`` with its fence.

**What is simulated:**

- the event loop (``loop.py``): no I/O; time jumps to the next timer when nothing is ready. Every callback belongs to
  a process by its context. Callbacks of one process keep their order; which process comes next is drawn. A frozen
  process runs nothing, its timers and arrivals wait; waking, it sees first what arrived or what became due, as drawn.
  A killed one never runs again, not even its ``finally``;
- the network (``network.py``), under the transport: delays with a long tail, in order within a connection;
  connections that break and lose what is under way; partitions both ways or one way, in which TCP holds everything
  until keep-alive gives up; refused and slow dials; a writer waits where the path is blocked;
- etcd (``etcd.py``, ``directory.py``): revisions, nested transactions, leases that run out late, watches with a lag
  per silo, compaction, slow and absent etcd, writes whose answer is lost or that take effect after the client gave up;
- the store (``store.py``): what was sent is applied late, even if its sender is dead, asleep or replaced by then;
  ``StoreUnavailable``;
- each silo's clock drifts by up to 4 %.

**Workload** (``workload.py``, ``subjects.py``): appends, reads, pipelined asks and sends, streams, chains of actors
and cycles, sends from within turns, failing handlers, failing ``on_activate``, sleep by idleness and on request; actors
that persist each turn, at deactivation and never. **Faults** (``faults.py``): each seed draws some kinds of them and
inflicts up to seven.

**Checks** (``checks.py``): one owner per epoch, and no write of a lower epoch; no committed effect is lost; a success
took effect once, a rejection never, an unknown outcome at most once; answers follow real time per address and never
come from an older owner; replies and stream ends only after their commit; items are a prefix in order; order of each
sender to each actor; ``CallCycle`` only in cycles, and no turn inside itself; every call ends by its deadline, and at
once when its link is lost; no internal error, no lost exception; while nothing is wrong every call succeeds, before
the faults and again some time after them; in the end every actor answers, and no runtime holds a call, stream, claim,
activation or task. ``plants.py`` switches known bugs on, to see that they are found.

**Not modelled:** gRPC itself, TLS and etcd's own replication (the real ones are tested in tests/cluster); disks (the
stores' conformance suite does that); time spent computing, so neither overload nor a blocked loop; large payloads;
frozen or crashing clients; an etcd that lost its data. **Not checked yet:** that accepted one-way messages survive a
crash (there is no durable inbox yet); order between messages when a link ended between them; that readonly calls see
only what is committed (``--strict-reads`` does).
"""
