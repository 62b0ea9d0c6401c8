"""Rolling restarts for Supervisor: no failed request, no cold process.

Three programs live in this package, and the folders are named after where code runs. In reading order:

``model``              the words: policy, rollout, member, stage, ward; what a look sees
``core.machine``       what a rollout does next; the diagram and the rules
``core.stages``        one process on its way: a function for each stage
``core.guard``         what of a group is not warm, and which of it is closed: crashes, boots, restarts by hand
``core.hook_steps``         the operator's commands at the beginning and the end of a rollout
``core.admission``         from a request to a rollout, or the reason why not
``core.checks``        what is wrong with a set-up; ``core.nginx_config`` is what an nginx configuration says
``listener.reconciler`` the turn: look, decide, record, hold, order; ``guard_states`` has the guarded groups for it, and
                       ``inspection`` the checks
``listener``        its adapters: ``gates`` (netfilter), ``drain`` (connections), ``warmup`` (HTTP), ``deaths``
                       (pidfds), ``processes`` (supervisord over XML-RPC), ``protocol`` (its events), ``config`` and
                       ``policies`` (rolling.yaml), ``balancers`` (nginx's configuration), ``trial`` (a gate, for real),
                       ``hooks`` (commands), ``history`` (of ``core.records``, with ``core.forecast``), ``metrics`` (of
                       ``core.metrics_snapshot``), ``trust`` (which files root obeys)
``listener``           main: the program that rollouts
``rpcinterface``       the XML-RPC namespace; ``plugin`` has its mailbox, table, views, events (ours), hearing
                       (supervisord's), lives and wake-up; ``shapes`` of what it keeps; and ``contained``, the net
                       below it all
``wsgi``, ``asgi``     middlewares for applications, which look at the flag of ``draining``
``controllerplugin``   the supervisorctl commands; ``ctl`` has what they take and print, and ``report``,
                       the page; ``command`` has them without supervisorctl
``skel``               what to paste: the files of conf/
"""

__version__ = "0.1.0"
