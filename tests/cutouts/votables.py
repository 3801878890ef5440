"""VOTables as an archive of images sends them: SIA 1 and 2, DataLink with a SODA service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

if TYPE_CHECKING:
    from loopback import Services

SIA2 = {
    "obs_publisher_did": ("char", ""), "lsst_band": ("char", ""), "s_ra": ("double", ""), "s_dec": ("double", ""),
    "s_fov": ("double", ""), "access_url": ("char", ""), "access_format": ("char", ""),
    "dataproduct_subtype": ("char", ""),
}  # fmt: skip
SIA1 = {
    "title": ("char", "VOX:Image_Title"), "band": ("char", "VOX:BandPass_ID"), "ra": ("double", "POS_EQ_RA_MAIN"),
    "dec": ("double", "POS_EQ_DEC_MAIN"), "scale": ("double2", "VOX:Image_Scale"), "naxis": ("int2", "VOX:Image_Naxis"),
    "url": ("char", "VOX:Image_AccessReference"), "format": ("char", "VOX:Image_Format"),
}  # fmt: skip
LINKS = dict.fromkeys(("ID", "access_url", "service_def", "semantics", "content_type"), ("char", ""))
HEAD = '<VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE type="results">'


def header(wcs: WCS) -> fits.Header:
    made = wcs.to_header()
    made["BUNIT"] = "nJy"
    return made


def error(text: str) -> bytes:
    return f'{HEAD}<INFO name="QUERY_STATUS" value="ERROR">{text}</INFO></RESOURCE></VOTABLE>'.encode()


def table(fields: dict[str, tuple[str, str]], rows: list[list[Any]], status: str = "OK", after: str = "") -> bytes:
    head = "".join(_field(name, *kind) for name, kind in fields.items())
    body = "".join("<TR>" + "".join(f"<TD>{escape(str(cell))}</TD>" for cell in row) + "</TR>" for row in rows)
    return (
        f'{HEAD}<INFO name="QUERY_STATUS" value="{status}"/><TABLE>{head}<DATA><TABLEDATA>{body}</TABLEDATA></DATA>'
        f"</TABLE></RESOURCE>{after}</VOTABLE>"
    ).encode()


def _field(name: str, kind: str, ucd: str) -> str:
    size = ' arraysize="*"' if kind == "char" else ' arraysize="2"' if kind.endswith("2") else ""
    said = f' ucd="{ucd}"' if ucd else ""
    return f'<FIELD name="{name}" ID="{name}" datatype="{kind.removesuffix("2")}"{size}{said}/>'


def images(services: Services, what: str, query: dict[str, str]) -> bytes:
    """Images that touch the circle, or the square, of a query; ``flat``: SIA 2 without DataLink."""
    if query["POS"].startswith("CIRCLE"):
        ra, dec, radius = map(float, query["POS"].split()[1:])
    else:
        (ra, dec), radius = map(float, query["POS"].split(",")), float(query["SIZE"].split(",")[0]) / 2
    rows = []
    for name, (band, pixels, wcs) in services.archive.items():
        there = [float(value) for value in wcs.all_pix2world(*(np.array(pixels.shape[::-1]) - 1) / 2, 0)]
        scale = float(proj_plane_pixel_scales(wcs)[0])
        fov = scale * float(np.hypot(*pixels.shape))
        if np.hypot((there[0] - ra) * np.cos(np.radians(dec)), there[1] - dec) > radius + fov / 2:
            continue
        file = f"{services.url}/archive/{name}.fits"
        if what == "sia1":
            shape = f"{pixels.shape[1]} {pixels.shape[0]}"
            rows.append([name, band, *there, f"{-scale} {scale}", shape, file, "image/fits"])
        else:
            link = f"{services.url}/archive/datalink?ID={name}"
            url, kind = (file, "image/fits") if what == "flat" else (link, "application/x-votable+xml;content=datalink")
            rows.append([name, band, *there, fov, url, kind, "weight" if "weight" in name else "science"])
    cut = len(rows) > services.longest_list
    status = "OVERFLOW" if cut else "OK"
    return table(SIA1 if what == "sia1" else SIA2, rows[: services.longest_list], status)


def links(url: str, name: str) -> bytes:
    """The image itself, and a service that cuts it."""
    soda = (
        '<RESOURCE ID="cut" type="meta" utype="adhoc:service">'
        '<PARAM name="standardID" datatype="char" arraysize="*" value="ivo://ivoa.net/std/SODA#sync-1.0"/>'
        f'<PARAM name="accessURL" datatype="char" arraysize="*" value="{url}/archive/soda"/>'
        f'<GROUP name="inputParams"><PARAM name="ID" datatype="char" arraysize="*" value="{escape(name)}"/>'
        '<PARAM name="CIRCLE" datatype="double" arraysize="3" unit="deg" xtype="circle" value=""/></GROUP></RESOURCE>'
    )
    rows = [[name, f"{url}/archive/{name}.fits", "", "#this", "image/fits"], [name, "", "cut", "#cutout", "image/fits"]]
    return table(LINKS, rows, after=soda)
