"""Enclave Image Format v4: read, write, measure, sign."""

from adytum_image.eif.layout import Eif, Section, SectionType
from adytum_image.eif.measure import Measurements, measure
from adytum_image.eif.reader import parse_metadata, read
from adytum_image.eif.writer import rewrite, write

__all__ = ["Eif", "Measurements", "Section", "SectionType", "measure", "parse_metadata", "read", "rewrite", "write"]
