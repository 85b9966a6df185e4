"""What runs inside a container of fnbuild: an HTTP server that answers with one function.

Read it in this order: `__main__` starts, `listener` opens the port, `server` answers on it, `app` answers a request,
`loading` imports the user's code, `arguments` binds a JSON object to the function's parameters, `answers` turns what it
returned into a response, `errors` says what went wrong, `marks` says which call a printed line belongs to, `handover`
receives a function in a container that was started without one.
"""

__version__ = "0.1.0"
