"""Rolling restarts for Supervisor: no failed request, no cold process.

The folders are named after where their code runs; ``core/`` runs everywhere and does no I/O. In reading order:

``core/``            ``policy``, ``process``, ``rollout``, ``observation``: the values. ``machine``: what a rollout does
                     next, with its rules; ``transitions``, ``stages``, ``drain``, ``restart``, ``warming``: the stages
                     of a process. ``guard``: the crash guard. ``admission``: from a request to a rollout, or to the
                     reason why it is refused. ``checks/``: the preflight checks. ``public_view``: what others see
``codec``            the values of ``core/`` as JSON and back, validated; ``schema/``: JSON Schemas of what others see
``listener/``        the program that runs rollouts, an event listener of supervisord: ``main``, ``reconciler``
                     (``observe``, decide, record, ``apply``), ``request_handler``; and adapters: ``gates/`` (what
                     closes a port), ``warmup``, ``supervisor_client``, ``config/`` (rolling.yaml), ``preflight``, …
``plugin/``          inside supervisord: ``rpc`` (the XML-RPC namespace ``rolling``), ``listener_api`` (its methods for
                     the listener), ``mailbox`` (what supervisord remembers), ``events``, ``wakeup``, ``fault_barrier``
``ctl/``             inside supervisorctl: ``commands``, a file for each command; the program ``supervisor_rolling``
``rpcinterface``, ``controllerplugin``    the names that supervisord.conf gives for ``plugin/`` and ``ctl/``
``file_trust``       which files root may obey and write
``wsgi``, ``asgi``   middlewares for applications, which read the flag of ``draining``
``skel/``            the examples that ``echo_rolling_conf`` prints
"""

__version__ = "0.1.0"
