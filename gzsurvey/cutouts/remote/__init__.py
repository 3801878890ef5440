"""Asking hosts on the network: politely, with bounds on everything, believing nothing unchecked."""
