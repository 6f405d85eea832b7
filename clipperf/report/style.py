"""The style sheet of the HTML page: light, dark, phone and paper; loads nothing."""

from __future__ import annotations

STYLE = """
:root{--bg:#fff;--fg:#1b2330;--soft:#5b6676;--line:#e2e6ec;--panel:#f6f8fa;--accent:#1f5fbf;
--bad:#b3261e;--badbg:#fdeceb;--warn:#7a5200;--warnbg:#fff3d6;--good:#17663a;--goodbg:#e4f5ea;
--c0:#7b8794;--c1:#1f77b4;--c2:#d9730d;--c3:#2a9d63;--c4:#8e5bc4;--c5:#c2418b}
@media(prefers-color-scheme:dark){:root{--bg:#12161c;--fg:#e6eaf0;--soft:#9aa6b5;--line:#2b333f;
--panel:#1a2029;--accent:#7db3ff;--bad:#ff9d95;--badbg:#3d1d1b;--warn:#f2c668;--warnbg:#38290a;
--good:#7fd6a2;--goodbg:#123222;--c0:#8b98a8;--c1:#4ea3e0;--c2:#f0944d;--c3:#4cc38a;--c4:#b48be0;
--c5:#e778b8}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--fg);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
header,main,footer{max-width:1240px;margin:0 auto;padding:0 24px}
header{padding-top:36px}
h1{font-size:28px;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em}
h2{font-size:19px;margin:0 0 6px;letter-spacing:-.005em}
h3{font-size:14px;margin:0 0 8px}
.sub,.intro,footer,caption,figcaption{color:var(--soft)}
.sub{margin:0 0 16px}.intro{margin:0 0 12px}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;border-bottom:1px solid var(--line);
padding-bottom:12px}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
section{margin:34px 0}
.findings{background:var(--panel);border:1px solid var(--line);border-left:4px solid var(--accent);
border-radius:8px;padding:18px 22px;margin-top:24px}
ul{margin:0;padding-left:20px}li{margin:4px 0}
.banner{background:var(--badbg);color:var(--bad);border-radius:8px;padding:12px 18px;
margin:24px 0 -8px;border:1px solid currentColor}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:8px;margin:12px 0 8px}
.scroll:focus-visible{outline:2px solid var(--accent)}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:10px 12px;font-size:13px}
th,td{padding:6px 12px;text-align:left;vertical-align:top;white-space:nowrap}
th{font-weight:600;font-size:12.5px;color:var(--soft);white-space:normal;vertical-align:bottom;
border-bottom:1px solid var(--line);background:var(--panel)}
th.n,td.n{text-align:right}
tr.next td{border-top:1px solid var(--line)}
tbody tr:hover td{background:var(--panel)}
tr.model th{background:var(--bg);color:var(--fg);font-size:13.5px;padding-top:12px;
border-top:1px solid var(--line)}
tr.model span{position:sticky;left:12px}
tr.model .mark{position:static}
tr.failed td{color:var(--soft)}
td:last-child:not(.n){white-space:normal;min-width:9em}
.prose td{vertical-align:top}
.ci,.none{color:var(--soft);font-size:.92em}
.notes{color:var(--soft);font-size:13px;margin-bottom:22px}
.mark{display:inline-block;border-radius:99px;padding:0 8px;font-size:12px;line-height:1.6}
.mark.bad{background:var(--badbg);color:var(--bad)}
.mark.warn{background:var(--warnbg);color:var(--warn)}
.mark.good{background:var(--goodbg);color:var(--good)}
.mark.plain{background:var(--panel);color:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:18px}
figure{margin:0;border:1px solid var(--line);border-radius:8px;padding:14px 18px;
display:flex;flex-direction:column-reverse;justify-content:flex-end;break-inside:avoid}
figcaption{font-size:13px;margin-bottom:10px;color:var(--fg);font-weight:600;overflow-wrap:anywhere}
svg{width:100%;height:auto;display:block;font-size:12.5px;fill:var(--fg)}
svg .group{font-weight:600}svg .value{font-variant-numeric:tabular-nums}
svg .whisker{stroke:var(--fg);stroke-width:1.4;fill:none}
svg .grid{stroke:var(--line);fill:none}svg .line{fill:none;stroke-width:2.2}
.s0{fill:var(--c0);stroke:var(--c0)}.s1{fill:var(--c1);stroke:var(--c1)}
.s2{fill:var(--c2);stroke:var(--c2)}.s3{fill:var(--c3);stroke:var(--c3)}
.s4{fill:var(--c4);stroke:var(--c4)}.s5{fill:var(--c5);stroke:var(--c5)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:18px}
.card{border:1px solid var(--line);border-radius:8px;padding:14px 18px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 16px;margin:0;font-size:13.5px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
code{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere;
white-space:normal}
footer{padding-top:10px;padding-bottom:40px;font-size:13px}
@media(max-width:640px){header,main,footer{padding-left:14px;padding-right:14px}
h1{font-size:23px}.findings{padding:14px 16px}th,td{padding:5px 9px}}
@media print{:root{--bg:#fff;--fg:#000;--soft:#444;--line:#bbb;--panel:#fff}
body{font-size:10.5pt}nav{display:none}header,main,footer{max-width:none;padding:0}
.scroll{overflow:visible;border:0}table{font-size:8pt}th,td{padding:2pt 4pt;white-space:normal}
section,tr{break-inside:avoid}#cost,#summary{break-inside:auto}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
