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

**Workload** (``workload.py``, ``subjects.py``, ``author.py``): appends, reads, pipelined asks and sends, streams,
chains of actors and cycles, failing handlers, failing ``on_activate``, sleep by idleness and on request; actors that
persist each turn, at deactivation and never. Durable work: sends from turns and from steps, steps one after another
and in parallel, some ``once``, streams with a channel that resume or begin anew, publications from inside and
outside, channels that keep little and are closed (``brief.py``), turns that wait for signals, with and without a
timeout, and signals that come before, meanwhile and afterwards (``clerk.py``), reminders once and periodic, repeats
by idempotency key, deletion; in three of ten runs silos with an older and a newer version of the code, drawn at each
start, and an actor of which only the newer one knows all fields and handlers (``deed.py``); readers of channels that
leave and come back (``readers.py``); an operator who retries parked messages.
**Faults** (``faults.py``): each seed draws some kinds of them and inflicts up to seven.

**Checks while it runs** (``checks.py``): one owner per epoch, and no write of a lower epoch; no committed effect is
lost or committed twice; answers never come from an older owner; replies and stream ends only after their commit,
messages of a turn after the turn's, ``Accepted`` after the row's, and nothing is read from a channel before it is
durable; a finished step never runs again and a ``once`` step never twice (bodies are counted outside of the actors);
calls of durable actors outlive their silo; what is left to do always has a wake-up time, also at the end of a wait;
what only newer code knows of a state stays there; each signal continues one wait, the oldest first, and a timeout
comes at its time and only where no signal was durable before (``wait_checks.py``); every call ends by its deadline;
no internal error, no lost exception; while nothing is wrong every call succeeds. **In the end**
(``durable_checks.py``, too): a success, and what was accepted, took effect once, a rejection never, an unknown
outcome at most once; what committed turns sent arrived once and in order; each signal that was accepted was taken or
is kept, and nothing waits for ever; order of each sender to each actor; channels have dense offsets and what was
published, once and in order, and every reader has read exactly that, or was told what was gone; what is retained is
the end of what was published, and as much as the limits say; reminders had one effect for each due time; no message,
outbox row, journal row or wake-up time is left; every actor answers, and no runtime holds a call, stream, claim,
activation or task (``leaks.py``). ``plants.py``, ``durable_plants.py`` and ``wait_plants.py`` switch known bugs on,
to see that they are found.

**Not modelled:** gRPC itself, TLS and etcd's own replication (the real ones are tested in tests/cluster); disks (the
stores' conformance suite does that); time spent computing, so neither overload nor a blocked loop; large payloads and
results stored beside their rows; frozen or crashing clients; an etcd that lost its data; steps in threads.
**Not checked:** order between an ask and a later send when a link ended or a silo was drained between them; order of
durable calls that were under way together while a silo said goodbye, or of which one ran, was not stored and came again
because a link ended before its sender heard of that (those awaited one by one are always checked); order and
exactly-once over a deletion; that a periodic reminder fires at every due time while nobody is there (it need not).
"""
