"""The Flask side, behind :class:`flask_socketact.SocketAct`: what an application knows and controls."""
