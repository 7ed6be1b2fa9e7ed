"""Stages start sooner in a process that runs several: what jsonargparse makes of a class is made once."""

from functools import cache

from jsonargparse import ArgumentParser, _signatures, _typehints


def make_parsers_once() -> None:
    """Signatures are read, and parsers of the classes in a configuration are made, once for the same arguments."""
    _signatures.get_signature_parameters = cache(_signatures.get_signature_parameters)
    make, made = _typehints.ActionTypeHint.get_class_parser, {}

    def class_parser(val_class, sub_add_kwargs=None, skip_args=None) -> ArgumentParser:  # names of jsonargparse
        of = _typehints.import_object(val_class) if isinstance(val_class, str) else val_class
        parent = _typehints.parent_parser.get()
        given = repr((sub_add_kwargs, skip_args, _typehints.nested_links.get()))
        key = (of, type(parent), parent.parser_mode, parent.logger, given)
        if key not in made:
            made[key] = make(of, sub_add_kwargs, skip_args)
        return made[key]

    _typehints.ActionTypeHint.get_class_parser = staticmethod(class_parser)
