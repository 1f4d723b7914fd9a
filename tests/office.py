"""The real LibreOffice, without a screen, doing what a person would do with a workbook: by a macro of its own Basic."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from xml.sax.saxutils import escape

OFFICE = shutil.which("soffice")

# A profile that is set up already: setting it up would put an empty library in the place of ours.
_SET_UP = """<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry" xmlns:xs="http://www.w3.org/2001/XMLSchema"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><item oor:path="/org.openoffice.Setup/Office">
<prop oor:name="ooSetupInstCompleted" oor:op="fuse"><value>true</value></prop></item></oor:items>
"""
_LIBRARIES = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE library:libraries PUBLIC "-//OpenOffice.org//DTD OfficeDocument 1.0//EN" "libraries.dtd">
<library:libraries xmlns:library="http://openoffice.org/2000/library" xmlns:xlink="http://www.w3.org/1999/xlink">
 <library:library library:name="Standard" library:link="false"/></library:libraries>
"""
_LIBRARY = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE library:library PUBLIC "-//OpenOffice.org//DTD OfficeDocument 1.0//EN" "library.dtd">
<library:library xmlns:library="http://openoffice.org/2000/library" library:name="Standard" library:readonly="false"
 library:passwordprotected="false"><library:element library:name="Module1"/></library:library>
"""
_MODULE = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE script:module PUBLIC "-//OpenOffice.org//DTD OfficeDocument 1.0//EN" "module.dtd">
<script:module xmlns:script="http://openoffice.org/2000/script" script:name="Module1" script:language="StarBasic">
{code}</script:module>
"""
# A line written to `log` for each thing that a test looks at.
_PREAMBLE = """
Sub Note(text)
  Dim n
  n = FreeFile
  Open "{log}" For Append As #n
  Print #n, text
  Close #n
End Sub
Function Loaded(path)
  Dim hidden(0) As New com.sun.star.beans.PropertyValue
  hidden(0).Name = "Hidden" : hidden(0).Value = True
  Loaded = StarDesktop.loadComponentFromURL(ConvertToURL(path), "_blank", 0, hidden())
End Function
Sub SaveAs(doc, path, kind, options)
  Dim how(1) As New com.sun.star.beans.PropertyValue
  how(0).Name = "FilterName" : how(0).Value = kind
  how(1).Name = "FilterOptions" : how(1).Value = options
  doc.storeToURL(ConvertToURL(path), how())
End Sub
Sub Main
  On Error Goto Failed
  Work()
  Note "done"
  Exit Sub
Failed:
  Note "failed in line " & Erl & ": " & Error$
End Sub
"""


def run_macro(home: Path, code: str) -> list[str]:
    """Run a Basic `Sub Work` in an office whose profile lies in `home`; what it noted with `Note`, line by line.

    It can load a file with `Loaded(path)` and save with `SaveAs doc, path, filter, options`. A macro that did not come
    to its end is an AssertionError.
    """
    assert OFFICE is not None
    log = home / "notes.txt"
    user = home / "profile" / "user"
    library = user / "basic" / "Standard"
    library.mkdir(parents=True)
    (user / "registrymodifications.xcu").write_text(_SET_UP, encoding="utf-8")
    (user / "basic" / "script.xlc").write_text(_LIBRARIES, encoding="utf-8")
    (library / "script.xlb").write_text(_LIBRARY, encoding="utf-8")
    module = _PREAMBLE.replace("{log}", str(log)) + code
    (library / "Module1.xba").write_text(_MODULE.format(code=escape(module)), encoding="utf-8")
    command = [OFFICE, f"-env:UserInstallation=file://{home}/profile", "--headless", "macro:///Standard.Module1.Main"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    notes = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    assert notes[-1:] == ["done"], notes
    return notes[:-1]
