"""The Flask extension behind :class:`flask_socketact.SocketAct`."""
