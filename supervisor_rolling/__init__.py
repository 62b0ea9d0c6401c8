"""Rolling restarts for Supervisor: no failed request, no cold process.

Three programs live in this package, and the folders are named after where code runs. In reading order:

``model``              the words: policy, roll, member, stage; what a look sees
``pure.machine``       what a roll does next; the diagram and the rules
``pure.stages``        one process on its way: a function for each stage
``pure.begin``         from a request to a roll, or the reason why not
``in_listener.roller`` the turn: look, decide, record, hold, order
``in_listener``        its adapters: ``gates`` (netfilter), ``drain`` (connections), ``warmup`` (HTTP), ``processes``
                       (supervisord over XML-RPC), ``protocol`` (its events), ``config`` (rolling.yaml)
``listener``           main: the program that rolls
``rpcinterface``       the XML-RPC namespace; ``in_supervisord`` has its mailbox, events, views and the wake-up
``controllerplugin``   the supervisorctl commands; ``in_supervisorctl`` has what they print
"""

__version__ = "0.1.0"
